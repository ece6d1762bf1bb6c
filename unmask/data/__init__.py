"""Where models and data come from: repositories of the Hugging Face hub, data files, and how they lie in folders."""
