"""What every bench of the network measures with: operations, the machine's speed, memory."""
