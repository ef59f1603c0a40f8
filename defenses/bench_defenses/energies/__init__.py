"""Energies: networks, Langevin purification, trainings."""
