"""What a run needs beside the networks: held-out images, learning rate, guards, checkpoints."""
