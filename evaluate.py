"""Adapter to scores: `python evaluate.py adapter=DIR suite=paper`."""

if __name__ == "__main__":
    from smart.cli.evaluate import main

    main()
elif __name__ == "evaluate":
    from smart._shadow import give_way

    give_way(__name__, __file__)
