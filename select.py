"""Collection to mixture: `python select.py budget=25k fn=graphcut`; `python select.py --help` lists all keys."""

if __name__ == "__main__":
    from smart.cli.select import main

    main()
elif __name__ == "select":
    from smart._shadow import give_way

    give_way(__name__, __file__)
