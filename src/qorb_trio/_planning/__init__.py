"""Plans: the number of slots of each backend, and the choice of the backends that are used.

Pure functions over snapshots of the slot sets; nothing here imports trio. The rebalancer in
`_pool` is the caller of `make_plan`, which reads: sum up the views (`situation`), divide the
demand over them (`division`, `apportion`), compare the quotas with what there is (`comparison`),
then choose dials (`dialling`) and closes (`closing`). `rotation` has the order of the backends by
weighted chance. `known` and `subset` choose the active backends where thousands are known.
"""
