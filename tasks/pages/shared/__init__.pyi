from .records import RunFacts as RunFacts
from .shell import Site as Site
