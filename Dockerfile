# wsibench with everything that it needs, for machines without Python or make.
#
#   docker build -t wsibench .
#   docker run --rm --gpus all -v "$PWD/data:/wsibench/data" -v "$PWD/figures:/wsibench/figures" wsibench run demo
#
# On a cluster, with Apptainer (the image is read-only, so data and figures are bound from outside):
#
#   apptainer build wsibench.sif docker-daemon://wsibench:latest
#   apptainer run --nv --bind "$PWD/data:/wsibench/data,$PWD/figures:/wsibench/figures" wsibench.sif run demo
FROM python:3.12-slim

RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /wsibench
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY wsibench wsibench
COPY notebooks notebooks
COPY data data
RUN pip install --no-cache-dir -c constraints.txt uv \
    && uv pip install --system --no-cache -c constraints.txt -e .
ENTRYPOINT ["wsibench"]
CMD ["--help"]
