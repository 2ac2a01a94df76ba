"""Run the entries of a pipeline as jobs of Slurm: their order, their scripts, and their submission with sbatch.

Jobs share nothing but the store. Each runs one entry with the command that would run it without Slurm, so it finds what
is finished and resumes what is not.
"""
