"""What users would run instead of gpupeak. Packages that gpupeak itself does without are in requirements.txt."""
