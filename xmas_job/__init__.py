"""xmas_job: which B of these N examples should the next vision-language fine-tune use?"""

__version__ = "0.1.0"
