"""Methods of adapting a model: one file each, found by its name (`zoo.adapters.methods.contract`).

Free of torch: recipes check a method's name here.
"""
