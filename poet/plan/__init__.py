"""What a step needs on a pod, found without the pod: memory, work, traffic and time."""
