"""Benchmarks, one package a program: python -m bench.fisher, bench.finetune, bench.study …"""
