"""The bias lab: from a folder of photos, prompts and groups to evidence.

Knows groups, suspects, controls and evidence; no formulas of maps. `photos` and `regions` read what
the reader gives, `copies` makes altered photos, `looking` measures one photo, `run` all of them,
`seen` holds what was measured, `evidence`, `crops` and `groups` test it, `outcome` has the tables,
`report` tells them.
"""
