"""Everything Arrow: schemas, parts of committed rows, and the readable tables made from them."""
