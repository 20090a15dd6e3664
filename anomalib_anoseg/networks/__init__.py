"""The networks of AnoSeg: encoder, decoders, discriminator; the paper's detector."""
