"""Screening: from candidates to the shortlist that goes to DFT; every rejection has a reason."""
