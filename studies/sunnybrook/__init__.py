"""The left ventricle in cardiac MRI (Sunnybrook): FCN-8s and smaller networks."""
