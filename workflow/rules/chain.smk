from otrain_core.plan.chain import chain_inputs, chain_record, chain_stamps


rule image:
    """Run all steps of one image, from the sky to cutouts, in one process (run.fused)."""

    # The job takes run.images_per_job images of the telescope, from {image} on. What the steps keep of them is not
    # listed here: steps.csv, written last, stands for it, and has the time and memory that each step took.
    input:
        lambda wildcards: [file for path in chain_inputs(RUN, **wildcards) if (file := if_exists(path))]
        + list(filter(None, [finder_file(wildcards)])),
    output:
        steps="results/{telescope}/{pipeline}/images/{image}/steps.csv",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/image.log",
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2500 * attempt,
        runtime=lambda wildcards, attempt: (15 + 15 * RUN.config.run.images_per_job) * attempt,
    params:
        chain=lambda wildcards: chain_record(RUN, **wildcards),
        cache=NETWORK_CACHE,
        stamps=lambda wildcards: chain_stamps(RUN, **wildcards),
        code=code_of("chain/image"),
    script:
        "../../scripts/chain/image.py"
