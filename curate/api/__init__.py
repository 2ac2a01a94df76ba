"""The commands of curate as typed methods of a store, for Python, notebooks and editors.

`Store` has a method for each command. The command line and these methods share the code in `commands`. The types of the
methods' keywords in `options` are generated from the configs of the stages.
"""
