# The steps of one image (here, in stars.smk and in candidates.smk) run as one job on a cluster (group "image").
# Priorities finish one image before the next begins, so that few large temporary files exist at a time.


rule prepare:
    """Remove cosmic rays and background from one injected image; make its mask and noise map."""
    input:
        injected="results/{telescope}/{pipeline}/images/{image}/injected.fits",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
    output:
        prepared=temp("results/{telescope}/{pipeline}/images/{image}/prepared.fits"),
    log:
        "results/logs/{telescope}/{pipeline}/{image}/prepare.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/prepare.tsv"
    priority: 30
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        detector=detector,
        options=step("prepare"),
        code=code_of("images/prepare"),
    script:
        "../../scripts/images/prepare.py"


rule subtract:
    """Align the reference to one prepared image, match and subtract it."""
    input:
        prepared="results/{telescope}/{pipeline}/images/{image}/prepared.fits",
        psf_record="results/{telescope}/{pipeline}/images/{image}/psf.json",
        reference=lambda wildcards: if_exists(reference_path(wildcards)),
        injected="results/{telescope}/{pipeline}/images/{image}/injected.csv",
    output:
        difference=kept_for_finder("results/{telescope}/{pipeline}/images/{image}/difference.fits"),
        record="results/{telescope}/{pipeline}/images/{image}/subtract.json",
    log:
        "results/logs/{telescope}/{pipeline}/{image}/subtract.log",
    benchmark:
        "results/benchmarks/{telescope}/{pipeline}/{image}/subtract.tsv"
    priority: 40
    group:
        "image"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: 15 * attempt,
    params:
        reference=reference_path,
        detector=detector,
        wcs=wcs_path,
        options=step("subtract"),
        psf_options=step("psf"),
        stamps=lambda wildcards: RUN.inputs.stamps([reference_path(wildcards)]),
        code=code_of("images/subtract"),
    script:
        "../../scripts/images/subtract.py"
