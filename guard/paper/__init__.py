"""The published tables: run them again, keep a record of each run, show the numbers beside the published.

A run is one pass through run.sh: one arm (how the teacher is trained and the images are recovered) on one
data set, at one number of images per class, with one seed. Runs are planned (plan), done (reproduce),
recorded (records) and gathered over seeds (groups); tables, findings and figures show them.
"""
