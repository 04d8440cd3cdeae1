"""How recorded networks were called, where not simply with their inputs: one module for each such entry, by its key.

Each has a function ``call(model, inputs)``, which gives the outputs in the order of the record.
"""
