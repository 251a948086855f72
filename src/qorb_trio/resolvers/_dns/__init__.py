"""The resolver of services over DNS. Its public names are in `qorb_trio.resolvers`."""
