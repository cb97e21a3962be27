"""TCGA cohorts from the Genomic Data Commons (GDC): asked for, paired, fetched, verified and read.

- ``client``: sessions, retries, and searching the GDC's files
- ``snapshot``: a project's file list as the GDC answered, kept
- ``tcga``: barcodes, and the counted rules that pair slides with RNA
- ``transfer``: the bytes of one file over HTTP
- ``download``: files fetched in parallel, resumed, verified
- ``star``: STAR counts and UCSC Xena's matrices as AnnData
- ``clinical``: clinic and subtype from the exports that people have
- ``acquisition``: all of it, for a study
"""
