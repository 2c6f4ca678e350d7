"""osteojax: bone-health classification from plain radiographs in JAX."""
