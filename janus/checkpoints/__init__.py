"""Reading and writing weights: folders and hub ids, the official and the transformers layout."""
