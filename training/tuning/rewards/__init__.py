"""What scores a candidate: learned models, rules, functions, tuned policies; and how scores combine."""
