"""Benchmarks against peers in the same run: python -m taxonomy.bench train | experts | speculate | decode"""
