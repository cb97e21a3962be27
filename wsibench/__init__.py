"""wsibench: which image foundation model reads gene expression best from a whole-slide image?"""
