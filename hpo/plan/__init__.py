"""From options, a study file and data to a checked `StudySpec`, before any worker is paid for."""
