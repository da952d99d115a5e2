"""Selection methods: one file each, arrays only; `contract` says what each must offer."""
