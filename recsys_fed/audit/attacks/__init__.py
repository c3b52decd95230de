"""Attacks that a lawyer asks about: was this person in the data, and what did this person do?"""
