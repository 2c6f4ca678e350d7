"""The region of interest: where femur, tibia and joint space lie in a radiograph, and what preparation does of it."""
