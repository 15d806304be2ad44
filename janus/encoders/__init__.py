"""From pictures to vectors: preprocessing, the SigLIP tower, the adaptors."""
