# `snakemake --configfile archive.yaml search`: candidates of an archive of images, see the section archive.
# An image that is done is not searched again, so that a job that was ended early goes on.


localrules:
    nights,


rule archive:
    """Find and score the candidates of some images of an archive."""
    output:
        record="results/archive/jobs/{job}.json",
    log:
        "results/logs/archive/{job}.log",
    benchmark:
        "results/benchmarks/archive/{job}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
        runtime=lambda wildcards, attempt: (10 + RUN.config.archive.images_per_job) * attempt,
    params:
        images=lambda wildcards: archive_jobs()[wildcards.job],
        stamps=archive_stamps,
        options=RUN.config.archive.model_dump(exclude={"images", "images_per_job"}),
        code=code_of("night/archive"),
    script:
        "../../scripts/night/archive.py"


rule nights:
    """What was found in the archive: results/archive/candidates (Parquet), and these tables."""
    input:
        records=lambda wildcards: [f"results/archive/jobs/{job}.json" for job in archive_jobs()],
    output:
        nights="results/archive/nights.csv",
        images="results/archive/images.csv",
    log:
        "results/logs/archive.log",
    benchmark:
        "results/benchmarks/archive.tsv"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000 * attempt,
        runtime=lambda wildcards, attempt: 10 * attempt,
    params:
        code=code_of("night/nights"),
    script:
        "../../scripts/night/nights.py"
