"""Real networks for the compression experiments: ResNets, their data, and the script that trains them.

    python -m benchmarks.networks.train --network resnet18 --data fashion-mnist

The names of the weights are those of torchvision, so that a user's own checkpoints load.
"""
