"""The work of Carat's commands: each job reads, transforms with `app.frames`, and writes to the warehouse.

`ingest` and `load` bring calls in, `snapshot` the shop's database; `build` makes the tables of `dwh`, `verify` proves
them, `forget` erases a person; `hourly` does all that is due. `runs` is their log.
"""
