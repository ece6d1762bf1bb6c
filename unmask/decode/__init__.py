"""The pure rules of decoding: evidence in, masks and tokens out. It imports torch and, of ours, what reads logits."""
