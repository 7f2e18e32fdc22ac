"""DeepXDE as a peer: the same problem, solved by another program with its documented settings.

    options.py      what a case may say under `solver: {name: deepxde}`; loads no torch
    trainer.py      the backend: drives the worker, rebuilds its network as a field of ours
    process.py      the worker as a process: started, asked, never orphaned
    worker.py       the process itself: `python -m residua.solvers.deepxde.worker FOLDER`
    session.py      a training in it: DeepXDE's own loops, stopped between iterations to report
    translation.py  problem to DeepXDE's geometry, equations, conditions and points

Importing DeepXDE takes seconds and changes defaults of torch for the whole process, so only the
worker (session.py and translation.py) does it. DeepXDE (LGPL-2.1) is used unmodified.
"""
