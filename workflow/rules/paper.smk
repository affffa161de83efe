# Reproduction of the paper: `snakemake paper --configfile config/paper.yaml`.
from otrain_core.paper.plan import FIGURES, TABLES, figure_sources, plan_paper, table_sources, trainings, under

PAPER = plan_paper(RUN)


localrules:
    paper_figures,
    paper_tables,
    paper,


rule paper_data:
    """Write the small table behind one figure of the paper, and its caption."""
    input:
        files=lambda wildcards: under("results", figure_sources(PAPER, wildcards.figure)),
    output:
        table="results/paper/{figure}.csv",
        caption="results/paper/{figure}.json",
    log:
        "results/logs/paper/{figure}.data.log",
    benchmark:
        "results/benchmarks/paper/{figure}.paper_data.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES),
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: 15 * attempt,
    params:
        plan=PAPER,
        code=code_of("paper/data"),
    script:
        "../../scripts/paper/data.py"


rule paper_figures:
    """Draw one figure of the paper from its small table."""
    input:
        table="results/paper/{figure}.csv",
        caption="results/paper/{figure}.json",
    output:
        png="results/paper/{figure}.png",
        pdf="results/paper/{figure}.pdf",
    log:
        "results/logs/paper/{figure}.log",
    benchmark:
        "results/benchmarks/paper/{figure}.paper_figures.tsv"
    wildcard_constraints:
        figure="|".join(FIGURES),
    threads: 1
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        code=code_of("paper/figures"),
    script:
        "../../scripts/paper/figures.py"


rule paper_tables:
    """Write one table of the paper as CSV and TeX, and its caption."""
    input:
        files=lambda wildcards: under("results", table_sources(PAPER, wildcards.table)),
    output:
        table="results/paper/{table}.csv",
        tex="results/paper/{table}.tex",
        caption="results/paper/{table}.json",
    log:
        "results/logs/paper/{table}.log",
    benchmark:
        "results/benchmarks/paper/{table}.paper_tables.tsv"
    wildcard_constraints:
        table="|".join(TABLES),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=15,
    params:
        plan=PAPER,
        code=code_of("paper/tables"),
    script:
        "../../scripts/paper/tables.py"


rule paper:
    """Regenerate the paper: all figures and tables, its claims beside ours, and one page of it all."""
    input:
        pictures=expand("results/paper/{figure}.{kind}", figure=FIGURES, kind=["png", "pdf", "csv", "json"]),
        tables=expand("results/paper/{table}.{kind}", table=TABLES, kind=["csv", "tex", "json"]),
        metrics=expand("{folder}/metrics.json", folder=under("results", trainings(PAPER))),
        experiments="results/experiments.csv",
    output:
        page="results/paper/index.html",
        claims="results/paper/claims.csv",
        captions="results/paper/captions.txt",
        about="results/paper/about.json",
        comparison="results/paper/comparison.csv",
    log:
        "results/logs/paper/paper.log",
    benchmark:
        "results/benchmarks/paper/paper.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        plan=PAPER,
        code=code_of("paper/paper"),
    script:
        "../../scripts/paper/paper.py"
