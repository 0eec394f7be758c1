"""What the library costs, as ratios to what it replaces: ``python -m benchmarks``.

Each benchmark measures its cases in turns (A B A B …) in one process and compares CPU time, so that what else
the machine does touches all of them alike. Servers and clients on the other side are processes of their own,
whose CPU time does not count. Nothing here is a test of speed: figures are read by people, the exit status
says only whether benchmarks ran.
"""
