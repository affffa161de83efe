# What can go wrong with a job, each in a rule of its own; names that the profile knows are those of the workflow.
import sys

sys.path.insert(0, str(Path(workflow.basedir).parents[1]))

from otrain_core.jobs.resume import start
from otrain_core.jobs.slurm import die_with_parent

if not workflow.is_main_process:
    die_with_parent()


onstart:
    start(workflow)


localrules:
    all,


rule all:
    input:
        expand("results/{name}.txt", name=["good", "fails", "image", "cancelled", "hungry", "training"]),


rule good:
    output:
        "results/good.txt",
    shell:
        "echo good > {output}"


rule fails:
    output:
        "results/fails.txt",
    log:
        "results/logs/fails.log",
    resources:
        attempt=lambda wildcards, attempt: attempt,
    params:
        fails_at=[1, 2, 3],
    script:
        "fails.py"


rule first_of_image:
    output:
        "results/first.txt",
    group:
        "image"
    shell:
        "echo first > {output}"


rule second_of_image:
    input:
        "results/first.txt",
    output:
        "results/image.txt",
    log:
        "results/logs/image.log",
    group:
        "image"
    resources:
        attempt=lambda wildcards, attempt: attempt,
    params:
        fails_at=[1],
    script:
        "fails.py"


rule cancelled:
    output:
        "results/cancelled.txt",
    resources:
        runtime=lambda wildcards, attempt: 7 * attempt,
        attempt=lambda wildcards, attempt: attempt,
    shell:
        "touch results/began; if [ {resources.attempt} = 1 ]; then sleep 300; fi; echo {resources.attempt} > {output}"


rule hungry:
    output:
        "results/hungry.txt",
    resources:
        mem_mb=lambda wildcards, attempt: 600 * attempt,
        attempt=lambda wildcards, attempt: attempt,
    shell:
        """
        {sys.executable} -c 'import time; kept = bytearray(700_000_000); time.sleep(6)'
        echo {resources.attempt} >{output}
        """


rule train:
    output:
        "results/training.txt",
    threads: 2
    resources:
        gpu=1,
    shell:
        "echo {threads} $CUDA_VISIBLE_DEVICES > {output}"
