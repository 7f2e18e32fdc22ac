"""Series in time: generators of known systems, users' files, cases of kind trajectory."""
