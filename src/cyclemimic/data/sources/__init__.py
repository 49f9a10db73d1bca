"""Where clips come from. Every source meets `cyclemimic.types.Source`; `folder` needs nothing but videos."""
