"""`python -m gear`."""

from gear.cli import main

raise SystemExit(main())
