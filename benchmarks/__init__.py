"""What an evaluation costs beyond its network passes; see benchmarks/README.md."""
