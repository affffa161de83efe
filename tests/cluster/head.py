"""Snakemake, or `make resume` (first argument ``resume``), that asks Slurm every second: its own pace is for clusters."""

import sys

from snakemake_executor_plugin_slurm import Executor

Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, seconds: None)

if __name__ == "__main__":
    if sys.argv[1:2] == ["resume"]:
        from otrain_core.jobs.resume import main

        del sys.argv[1]
        sys.exit(main())
    from snakemake.cli import main

    main()
