"""The whole loop on one machine: from rendered clips to a page that plays what was made."""
