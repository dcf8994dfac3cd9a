"""Drop-in replacements for quantisers of other packages, one module or package for each."""
