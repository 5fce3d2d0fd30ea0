"""The family of encoders: masked-LM batches read both ways, student shapes without token types, labelled tasks."""
