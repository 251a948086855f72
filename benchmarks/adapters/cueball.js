// cueball under Node: the other side of _contestant.py, as adapters/_asyncio.py is for asyncio.
//
// One order a line comes in, one answer a line goes out. Connections are not real.

'use strict';

const { EventEmitter } = require('events');
const readline = require('readline');
const cueball = require('cueball');

class FakeConnection extends EventEmitter {
  constructor() {
    super();
    setImmediate(() => this.emit('connect'));
  }
  destroy() {
    setImmediate(() => this.emit('close'));
  }
  ref() {}
  unref() {}
}

function openPool(slots) {
  const resolver = new cueball.StaticIpResolver({
    defaultPort: 80,
    backends: [{ address: '127.0.0.1', port: 80 }],
  });
  const pool = new cueball.ConnectionPool({
    domain: 'test.com',
    resolver,
    constructor: () => new FakeConnection(),
    spares: slots,
    maximum: slots,
    recovery: { default: { timeout: 1000, retries: 1, delay: 100 } },
    log: require('bunyan').createLogger({ name: 'benchmark', level: 'fatal' }),
  });
  resolver.start();
  return pool;
}

function claim(pool) {
  return new Promise((resolve, reject) => {
    pool.claim({}, (err, handle) => (err ? reject(err) : resolve(handle)));
  });
}

// As warm_claims in _work.py.
async function warm(pool, { enough }) {
  const begin = performance.now();
  let done = 0, batch = 1, spent = 0;
  while (spent < enough * 1e3) {
    for (let i = 0; i < batch; i++)
      (await claim(pool)).release();
    done += batch;
    batch = Math.min(done, 200);
    spent = performance.now() - begin;
  }
  return spent / done * 1e3;
}

// As crowd in _asyncio.py.
async function crowd(pool, { tasks, claims }) {
  async function claimant() {
    for (let i = 0; i < claims; i++) {
      const handle = await claim(pool);
      await new Promise((resolve) => setImmediate(resolve));
      handle.release();
    }
  }
  const begin = performance.now();
  await Promise.all(Array.from({ length: tasks }, claimant));
  return (performance.now() - begin) / (tasks * claims) * 1e3;
}

async function main() {
  const answer = (words) => process.stdout.write(JSON.stringify(words) + '\n');
  const pools = new Map();
  answer(`cueball ${require('cueball/package.json').version}, Node ${process.versions.node}`);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    if (!pools.has(order.slots)) {
      const pool = openPool(order.slots);
      pools.set(order.slots, pool);
      while (pool.getStats().idleConnections < order.slots)
        await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const work = order.work === 'warm' ? warm : crowd;
    answer(await work(pools.get(order.slots), order));
  }
  process.exit(0);
}

main();
