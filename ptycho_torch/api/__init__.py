"""The calls that Ptychodus makes: see :mod:`ptycho_torch.api.base_api`."""
