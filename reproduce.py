"""Grid to tables: `python reproduce.py table=budget`."""

if __name__ == "__main__":
    from smart.cli.reproduce import main

    main()
