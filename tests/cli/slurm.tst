# A sweep through a real Slurm ends in make's tables. STATUS PATTERN COMMAND
NEEDS /usr/sbin/slurmctld Slurm is not installed; scripts/install-deps --slurm
NEEDS /usr/sbin/slurmd Slurm is not installed; scripts/install-deps --slurm
NEEDS /usr/sbin/munged munge is not installed; scripts/install-deps --slurm
0 nothing.waits.for.a tests/slurm_sweep $QS_BUILD $TMP/slurm >$TMP/said 2>&1; rc=$?; cat $TMP/said; exit $rc
0 node.died,.the.reference.was.killed cat $TMP/said
0 a.stage.and.a.shard.were.killed,.a.shard.was.requeued cat $TMP/said
0 tables.are.the.same cat $TMP/said
0 is.being.worked.on.by cat $TMP/said
